"""The administrator's tool, safe-modprobectl. No code outside this package may import it."""
