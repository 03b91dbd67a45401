"""The page: one module for each page; ``parts`` holds what several of them show, ``writer`` the templates."""
