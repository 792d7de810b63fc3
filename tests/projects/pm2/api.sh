echo "api $1 $2 at $PORT for $PRICE"
exec sleep 1000
