"""The papers' tables and figures over a data set."""
