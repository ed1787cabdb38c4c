"""The library obstore (object_store of Rust) as it is: what it differs in is declared, not repaired."""
