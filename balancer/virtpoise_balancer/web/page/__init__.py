"""The page: one module for each page, ``parts`` for what several of them show, ``writer`` for the templates, ``routes``."""
