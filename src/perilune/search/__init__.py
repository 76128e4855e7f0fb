"""What an agent reads from: the almanac, corpora and the library, the web; one protocol for all."""
