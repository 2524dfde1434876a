"""What pages say in words without numbers is what the published records say.

A page's tables and many of its sentences are made from records when it is built. Where a paragraph
interprets them, what it takes for granted stands here, so that new records cannot contradict it
unnoticed.
"""
