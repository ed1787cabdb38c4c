"""How the reference of `document_database` is certified."""

from omnitck.primitives.document_database import DocumentDatabaseContract
from omnitck.reference import document_database
from omnitck.selftest.reference import Reference


class ReferenceSuite(DocumentDatabaseContract, Reference):
    """The reference of `document_database`, with every capability there is."""

    capabilities = document_database.CAPABILITIES
    backend_type = document_database.MemoryDocuments
    provider = document_database.MemoryDocumentDatabase
