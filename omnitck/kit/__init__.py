"""What contracts are made of. Authors of contracts and policies import from here; authors of providers need not."""
