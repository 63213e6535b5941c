"""What UCE and RECE remove and harm, one object, style or background at a time."""
