print()
