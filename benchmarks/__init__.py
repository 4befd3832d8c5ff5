"""Speed, measured: `make bench NAME=endpoint` and its sisters. The last line of each is one JSON object."""
