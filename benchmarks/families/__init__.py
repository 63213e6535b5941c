"""What an erasure through a choke point removes, costs and leaves open, on the embedded MMDiT; and what a fit takes."""
