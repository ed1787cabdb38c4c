"""etcd through aetcd."""
