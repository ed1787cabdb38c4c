"""NATS JetStream through nats-py: the layout of a KV bucket, with the revision as the version."""
