"""What was measured in pictures: counts, states, tables of figures, sheets and grids."""
