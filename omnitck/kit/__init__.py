"""What runs one rule: the shape of contracts and suites, the words of rules, the lives of providers."""
