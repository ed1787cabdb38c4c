"""The kernel carries contracts and policies of every shape: small ones that live here, each shown right and wrong."""
