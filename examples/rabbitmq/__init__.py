"""Adapters of RabbitMQ."""
