#!/usr/bin/env python3
"""Reads a run's results.parquet with polars and with pandas (pyarrow), as anyone would.

    check_table.py RESULTS.parquet
"""

import sys

COLUMNS = ["variant", "label", "kind", "chosen", "trial", "step", "alpha", "split", "task", "type", "metric", "main_score", "low", "high",
           "mean_over_seeds", "seeds", "rows", "tokens", "trainable", "parameters", "flops"]


def main():
    path = sys.argv[1]
    readers = []
    try:
        import polars
        frame = polars.read_parquet(path)
        settings = [c for c in frame.columns if c.startswith("setting.")]
        assert [c for c in frame.columns if c not in settings] == COLUMNS, frame.columns
        assert settings, "no column of a setting"
        known = frame.drop_nulls(["low", "high"])
        assert known.height > 0 and known.filter((polars.col("low") > polars.col("main_score")) | (polars.col("high") < polars.col("main_score"))).height == 0
        best = frame.filter(polars.col("split") == "dev").group_by("label").agg(polars.col("main_score").mean()).sort("main_score").tail(1)
        readers.append(f"polars {polars.__version__} ({frame.height} rows, best on dev {best['label'][0]})")
    except ImportError:
        pass
    try:
        import pandas
        import pyarrow
        table = pandas.read_parquet(path)
        trained = table[table["kind"] == "trained"]
        assert trained["step"].notna().all() and table[table["kind"] == "base"]["step"].isna().all()
        assert table["chosen"].dtype == bool and trained[[c for c in table.columns if c.startswith("setting.")]].notna().any().all()
        readers.append(f"pandas {pandas.__version__} with pyarrow {pyarrow.__version__}")
    except ImportError:
        pass
    print(f"{path}: read by {', '.join(readers)}" if readers else "skipped: neither polars nor pandas with pyarrow is installed here")


if __name__ == "__main__":
    main()
