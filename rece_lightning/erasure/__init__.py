"""``model.robust``: what joins RECE's epochs beside the one derived embedding, and when they may stop."""
