fn main() {
    std::thread::park();
}
