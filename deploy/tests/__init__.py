"""Tests of the chart, the table and the plain manifests."""
