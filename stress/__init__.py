"""Checks that take too long for the tests: each is a program that says what it found."""
