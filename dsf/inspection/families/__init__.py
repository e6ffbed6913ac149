"""One file for each known token mixer of other people's code, and the list of them."""
