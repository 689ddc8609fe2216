"""Questions about attention heads: each file asks one and answers with a labelled result."""
