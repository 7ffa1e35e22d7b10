"""Makes what is derived from the service table and the chart: the chart's schema and table, and the plain manifests."""
