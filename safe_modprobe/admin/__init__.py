"""The administrator's tool, safe-modprobectl. Nothing outside this room imports it."""
