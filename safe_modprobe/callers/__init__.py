"""Question 1: who called?"""
