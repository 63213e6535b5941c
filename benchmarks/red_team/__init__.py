"""How far each attack brings an erased concept back."""
