"""What a run looks like: one page for one run or several, with curves that need no network and no account."""
