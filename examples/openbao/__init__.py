"""OpenBao, whose API is that of HashiCorp's Vault, through httpx."""
