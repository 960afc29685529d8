"""Classifiers on frozen features: do they show the class?"""
