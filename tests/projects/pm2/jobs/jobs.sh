echo "jobs $1"
exec sleep 1000
