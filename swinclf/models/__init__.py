"""Networks: named, built, loaded, frozen, stored. Knows no file of images."""
