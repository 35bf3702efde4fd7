"""The conformance kit: the contracts of stores and backends as rules, and the tools that check them."""
