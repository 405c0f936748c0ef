#!
echo
