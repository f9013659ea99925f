; Loads what a table names from the disc that it came from, and starts the Linux kernel that is in it.
;
; The firmware puts this sector at 0x7c00 and says in DL which drive it is. Each entry of the table is three numbers of
; 32 bits: where on the disc, how many sectors of 2 KiB, and where in memory; an entry of no sectors ends it. By then
; the kernel's real-mode part is at 0x10000, made ready by whoever wrote the disc (Documentation/arch/x86/boot.rst).
;
; `nasm -f bin -o loader.bin loader.asm` makes what is kept beside it; a test looks whether it still does.

bits 16
org 0x7c00

    jmp 0:begin
    times 16-($-$$) db 0
table: times 8*12 db 0

begin:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    sti
    cld
    mov [drive], dl
    mov bx, table

entry:
    mov eax, [bx]
    mov [from], eax
    mov eax, [bx+8]
    mov [target], eax
    mov ebp, [bx+4]             ; sectors that are left
    test ebp, ebp
    jz run

part:
    mov eax, 16                 ; at once: half of the buffer's segment
    cmp ebp, eax
    jae some
    mov eax, ebp
some:
    mov [some_sectors], eax
    mov di, 5                   ; a drive that has just been closed fails at first
again:
    mov ax, [some_sectors]
    mov [count], ax
    mov si, packet
    mov ah, 0x42
    mov dl, [drive]
    push bx
    push di
    push ebp
    int 0x13
    pop ebp
    pop di
    pop bx
    jnc is_read
    dec di
    jnz again
    jmp failed
is_read:
    mov eax, [target]
    mov [to_low], ax
    shr eax, 16
    mov [to_middle], al
    mov [to_high], ah
    mov cx, [some_sectors]
    shl cx, 10                  ; in words
    mov si, segments
    push bx
    push ebp
    mov ah, 0x87
    int 0x15
    pop ebp
    pop bx
    jc failed
    mov eax, [some_sectors]
    add [from], eax
    sub ebp, eax
    shl eax, 11
    add [target], eax
    test ebp, ebp
    jnz part
    add bx, 12
    jmp entry

run:
    cli
    mov ax, 0x1000
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov sp, 0xe000
    jmp 0x1020:0

failed:
    xor ax, ax
    mov ds, ax
    mov si, message
say:
    lodsb
    test al, al
    jz stop
    mov ah, 0x0e
    mov bx, 7
    int 0x10
    jmp say
stop:
    hlt
    jmp stop

message: db 'The boot disc cannot be read', 13, 10, 0
drive: db 0

align 4
some_sectors: dd 0
target: dd 0
packet:
    db 16, 0
count: dw 0
    dw 0, 0x4000                ; the buffer, at 0x40000
from: dd 0, 0

segments:                       ; of the firmware's block move: two of its own, source, destination, two of its own
    times 16 db 0
    dw 0xffff, 0
    db 4, 0x93, 0, 0
    dw 0xffff
to_low: dw 0
to_middle: db 0
    db 0x93, 0
to_high: db 0
    times 16 db 0

    times 2048-($-$$) db 0
