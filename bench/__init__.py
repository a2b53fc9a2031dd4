"""Speed against peers and limits, measured in one run (`make bench`); nothing here is asserted by tests."""
