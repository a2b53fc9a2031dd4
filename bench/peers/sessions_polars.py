"""BGL lines -> labelled sessions of 20 messages by polars, on all cores: no ids, no checks. Arguments: log, output."""

import sys

import polars as pl

fields = pl.col("lines").str.splitn(" ", 10).struct
(pl.scan_lines(sys.argv[1], name="lines")
 .select(fields.field("field_0").alias("alert") != "-", fields.field("field_9").alias("log"))
 .with_row_index()
 .group_by(pl.col("index") // 20, maintain_order=True)
 .agg("log", label=pl.when(pl.col("alert").any()).then(pl.lit("abnormal")).otherwise(pl.lit("normal")))
 .select("log", "label")
 .sink_ndjson(sys.argv[2]))
