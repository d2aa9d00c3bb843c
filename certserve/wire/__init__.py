"""Every conversion between protobuf and the domain, once, as pure functions: for the server and the clients alike."""
