"""Adapters for Kafka's protocol, on aiokafka."""
