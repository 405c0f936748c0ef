# stdin is what load-orders has printed.
{ total += $3 }
END { printf "%d orders, %.2f in all\n", NR, total }
