"""What the authority's key is used for, where it is kept: giving, renewing, taking, handing on."""
