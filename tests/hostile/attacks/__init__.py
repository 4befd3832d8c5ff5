"""The programs, one file per channel, by goal. Each would do real harm if nothing held it; what each may touch is a canary of the judge's."""
