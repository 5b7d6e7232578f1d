"""The engines that run the cells of a sweep."""
