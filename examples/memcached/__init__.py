"""memcached through emcache."""
