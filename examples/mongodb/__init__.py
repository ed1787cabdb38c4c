"""SecantusDB, which speaks MongoDB's protocol, through pymongo's asynchronous client."""
