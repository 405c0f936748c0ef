#!python3
print(1)
