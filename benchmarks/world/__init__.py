"""A small world of invented facts and paid experts, in which routing can be learnt on two cores."""
