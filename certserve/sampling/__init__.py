"""The draws: jobs in, counts of votes out.

engine     runs jobs: admission, cancellation, failure, and when to ask a plan
scheduler  what runs next; bookkeeping without clock, thread or device
executor   slices of draws -> one label a draw; here a thread, elsewhere a process or a replica
sampler    under the executor: fixed-shape batches, padding, noise, f, argmax
"""
