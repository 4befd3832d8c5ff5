"""Evidence scripts: run by `make evidence NAME=...`, each writes its claims to docs/evidence/."""
