"""Parts that the networks share. Padded frames touch nothing in any of them."""
