"""What goes into the images beside the services, and the programs that build them."""
