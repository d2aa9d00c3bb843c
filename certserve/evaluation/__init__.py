"""How robust a model is, in the form the literature uses: tables of certificates, certified accuracy, comparisons."""
